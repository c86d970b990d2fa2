-- Takes, reads or returns slots in the sliding windows of one key: in all of them or none.
--
-- KEYS[i]   a LIST for each window: the number of slots taken, then pairs of time (µs since the epoch) and count, oldest
--           first. Requests of one tick share a pair under the time of the latest one. So the length of a list is bounded
--           whatever the limit, and a slot becomes free at most one tick late and never early.
-- KEYS[n+1] for a refund: a marker that it was made, in case the call is repeated
-- ARGV[1]   now, in ms since the epoch; '' for Redis's own clock
-- ARGV[2]   later than this, in ms since the epoch, nothing is written, because the request has been answered by then;
--           '' for no limit
-- ARGV[3]   'refund' to return slots, else ''
-- ARGV[4+]  for each window: limit, length in ms, length of a tick in ms, how many slots to take or return (0 reads the
--           state), and for a refund the number of its tick, else ''
--
-- Returns {1 if taken or read, 0 if refused, then for each window: slots taken, ms until the next one becomes free (0
-- when all are free), number of this request's tick}.
--
-- A request at time s counts while s > now - length: the window is half-open, (now - length, now].

local now = tonumber(ARGV[1])
if now then
  now = math.floor(now * 1000)
else
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local notAfter = tonumber(ARGV[2])
if notAfter and now > notAfter * 1000 then
  return redis.error_reply('LATE the request has already been answered')
end
local isRefund = ARGV[3] == 'refund'
local count = (#ARGV - 3) / 5
local marker = KEYS[count + 1]
local isRepeated = marker and not redis.call('SET', marker, '1', 'NX', 'PX', 60000)
-- Pairs are read in pieces. The first one is short, because usually the two oldest pairs are enough.
local FIRST_PIECE, PIECE = 2, 100

local function text(number) return string.format('%d', number) end

-- Reads the list of a window and sets these fields. Writes nothing.
--   taken    number of slots still taken
--   gone     how many numbers at the head of the list belong to pairs that have left the window
--   oldest   the first pairs that are still in the window
--   hasMore  whether the list may have more pairs than were read
--   latest   the last pair; nil for an empty window
local function read(window)
  local entries = redis.call('LRANGE', window.key, 0, 2 * FIRST_PIECE)
  local piece, i = FIRST_PIECE, 1
  window.taken = tonumber(table.remove(entries, 1) or '0')
  window.gone = 0
  while true do
    i = 1
    while entries[i] and tonumber(entries[i]) <= now - window.length do
      window.taken = window.taken - tonumber(entries[i + 1])
      i = i + 2
    end
    window.gone = window.gone + i - 1
    if i <= 2 * piece then break end
    piece = PIECE
    entries = redis.call('LRANGE', window.key, 1 + window.gone, window.gone + 2 * piece)
  end
  window.oldest = {}
  for j = i, #entries do window.oldest[#window.oldest + 1] = entries[j] end
  window.hasMore = #entries == 2 * piece
  if window.hasMore then
    window.latest = redis.call('LRANGE', window.key, -2, -1)
  elseif #window.oldest > 0 then
    window.latest = { entries[#entries - 1], entries[#entries] }
  end
end

-- Removes the pairs that have left the window.
local function prune(window)
  if window.gone == 0 then return end
  if window.taken == 0 then
    redis.call('DEL', window.key)
  else
    -- Removes the head and these numbers except the last, which is overwritten as the new head.
    redis.call('LPOP', window.key, window.gone)
    redis.call('LSET', window.key, 0, text(window.taken))
  end
  window.gone = 0
end

-- Adds `count` slots of now after the latest pair. Does not update the number at the head.
-- The expiry is set only for the first pair in each quarter of the window, so it is a quarter of the window later than the
-- pairs need.
local function add(window, count)
  local at = window.latest and tonumber(window.latest[1])
  if at and math.floor(at / window.size) == math.floor(now / window.size) then
    redis.call('LSET', window.key, -2, text(now))
    redis.call('LSET', window.key, -1, text(tonumber(window.latest[2]) + count))
  elseif at then
    redis.call('RPUSH', window.key, text(now), text(count))
  else
    redis.call('RPUSH', window.key, '0', text(now), text(count))
  end
  local quarter = window.length / 4
  if not at or math.floor(at / quarter) ~= math.floor(now / quarter) then
    redis.call('PEXPIRE', window.key, math.ceil((window.length + quarter + window.size) / 1000))
  end
end

-- After a change, reads the oldest pairs again if `oldest` held the latest one.
local function readAgain(window)
  local last = window.oldest[#window.oldest - 1]
  if not window.hasMore or (window.latest and last == window.latest[1]) then
    window.oldest = redis.call('LRANGE', window.key, 1, 2 * FIRST_PIECE)
  end
end

-- If the clock was set back, some pairs are in the future. Their slots are counted as taken now, so they become free late,
-- never early.
local function moveFuture(window)
  if not window.latest or tonumber(window.latest[1]) <= now then return end
  prune(window)
  local count = 0
  while redis.call('LLEN', window.key) >= 3 and tonumber(redis.call('LINDEX', window.key, -2)) > now do
    count = count + tonumber(redis.call('RPOP', window.key, 2)[1])
  end
  local latest = redis.call('LRANGE', window.key, -2, -1)
  if #latest < 2 then redis.call('DEL', window.key) end
  window.latest = latest[2] and latest
  add(window, count)
  redis.call('LSET', window.key, 0, text(window.taken))
  read(window)
end

local function take(window)
  prune(window)
  add(window, window.slots)
  window.taken = window.taken + window.slots
  redis.call('LSET', window.key, 0, text(window.taken))
  readAgain(window)
end

-- Returns slots of a tick, if the tick is still in the list.
local function refund(window)
  prune(window)
  local key, slots = window.key, window.slots
  local last = redis.call('LLEN', key) - 1
  local piece = 1
  while last >= 2 do
    local first = math.max(1, last - 2 * piece + 1)
    local entries = redis.call('LRANGE', key, first, last)
    for i = #entries - 1, 1, -2 do
      local entryTick = math.floor(tonumber(entries[i]) / window.size)
      if entryTick < window.tick then return end
      if entryTick == window.tick then
        local returned = math.min(slots, tonumber(entries[i + 1]))
        local at, count = first + i - 1, tonumber(entries[i + 1]) - returned
        if count > 0 then
          redis.call('LSET', key, at + 1, text(count))
        else
          redis.call('LSET', key, at, 'x')
          redis.call('LSET', key, at + 1, 'x')
          redis.call('LREM', key, 2, 'x')
        end
        window.taken = math.max(0, window.taken - returned)
        if window.taken > 0 then redis.call('LSET', key, 0, text(window.taken)) else redis.call('DEL', key) end
        window.hasMore = false
        readAgain(window)
        return
      end
    end
    last = first - 1
    piece = PIECE
  end
end

-- µs until `wanted` slots are free. If they are, µs until the oldest becomes free; 0 when all are free.
local function untilFree(window, wanted)
  local needed = math.max(1, window.taken - window.limit + wanted)
  local entries, from = window.oldest, 1 + window.gone + #window.oldest
  while #entries > 0 do
    for i = 1, #entries, 2 do
      needed = needed - tonumber(entries[i + 1])
      if needed <= 0 then return tonumber(entries[i]) + window.length - now end
    end
    entries = redis.call('LRANGE', window.key, from, from + 2 * PIECE - 1)
    from = from + 2 * PIECE
  end
  return 0
end

local windows, allowed = {}, true
for i = 1, count do
  local at = 4 + (i - 1) * 5
  local window = {
    key = KEYS[i],
    limit = tonumber(ARGV[at]),
    length = tonumber(ARGV[at + 1]) * 1000,
    size = tonumber(ARGV[at + 2]) * 1000,
    slots = isRepeated and 0 or tonumber(ARGV[at + 3]),
    tick = tonumber(ARGV[at + 4]),
  }
  read(window)
  moveFuture(window)
  -- A refused call writes nothing, except to remove more than 100 pairs, so that the next call need not read them again.
  if window.gone > 2 * PIECE then prune(window) end
  if not isRefund and window.slots > 0 and window.taken + window.slots > window.limit then allowed = false end
  windows[i] = window
end

local result = { allowed and 1 or 0 }
for _, window in ipairs(windows) do
  local wanted = 1
  if isRefund then
    if window.slots > 0 and window.tick then refund(window) end
  elseif window.slots > 0 and allowed then
    take(window)
  else
    wanted = math.max(1, window.slots)
  end
  result[#result + 1] = window.taken
  result[#result + 1] = math.ceil(untilFree(window, wanted) / 1000)
  result[#result + 1] = text(math.floor(now / window.size))
end
return result
