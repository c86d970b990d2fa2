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
-- Usually the oldest or the latest pair is enough. Otherwise the list is read in pieces of this many pairs.
local PIECE = 100

local function text(number) return string.format('%d', number) end

-- Removes entries that have left the window. Returns the number of slots still taken.
local function prune(key, horizon)
  local taken = tonumber(redis.call('LINDEX', key, 0) or '0')
  local gone, piece = 0, 1
  while true do
    local entries = redis.call('LRANGE', key, 1 + gone, gone + 2 * piece)
    local i = 1
    while entries[i] and tonumber(entries[i]) <= horizon do
      taken = taken - tonumber(entries[i + 1])
      i = i + 2
    end
    gone = gone + i - 1
    if i <= 2 * piece then break end
    piece = PIECE
  end
  if gone > 0 then
    redis.call('LPOP', key, 1 + gone)
    if taken > 0 then redis.call('LPUSH', key, text(taken)) end
  end
  return taken
end

-- If the clock was set back, there are entries in the future. They become requests of now, so their slots become free
-- late, never early. Removes these entries and returns their count.
local function takeFuture(key)
  local count = 0
  while redis.call('LLEN', key) >= 3 and tonumber(redis.call('LINDEX', key, -2)) > now do
    count = count + tonumber(redis.call('RPOP', key, 2)[1])
  end
  return count
end

-- Adds `count` requests of now. The caller updates the number at the head.
local function add(key, count, size)
  local latest = redis.call('LRANGE', key, -2, -1)
  if redis.call('LLEN', key) >= 3 and math.floor(tonumber(latest[1]) / size) == math.floor(now / size) then
    redis.call('LSET', key, -2, text(now))
    redis.call('LSET', key, -1, text(tonumber(latest[2]) + count))
  else
    if #latest == 0 then redis.call('RPUSH', key, '0') end
    redis.call('RPUSH', key, text(now), text(count))
  end
end

-- Returns slots of a tick, if the tick is still in the list. Returns the number of slots still taken.
local function refund(key, tick, size, taken, slots)
  local last = redis.call('LLEN', key) - 1
  local piece = 1
  while last >= 2 do
    local first = math.max(1, last - 2 * piece + 1)
    local entries = redis.call('LRANGE', key, first, last)
    for i = #entries - 1, 1, -2 do
      local entryTick = math.floor(tonumber(entries[i]) / size)
      if entryTick < tick then return taken end
      if entryTick == tick then
        local at, count = first + i - 1, tonumber(entries[i + 1]) - slots
        if count > 0 then
          redis.call('LSET', key, at + 1, text(count))
        else
          redis.call('LSET', key, at, 'x')
          redis.call('LSET', key, at + 1, 'x')
          redis.call('LREM', key, 2, 'x')
        end
        if taken > slots then redis.call('LSET', key, 0, text(taken - slots)) else redis.call('DEL', key) end
        return math.max(0, taken - slots)
      end
    end
    last = first - 1
    piece = PIECE
  end
  return taken
end

-- µs until `wanted` slots are free. If they are, µs until the oldest becomes free; 0 when all are free.
local function untilFree(key, taken, limit, length, wanted)
  local needed = math.max(1, taken - limit + wanted)
  local from, piece = 1, 1
  while true do
    local entries = redis.call('LRANGE', key, from, from + 2 * piece - 1)
    if #entries == 0 then return 0 end
    for i = 1, #entries, 2 do
      needed = needed - tonumber(entries[i + 1])
      if needed <= 0 then return tonumber(entries[i]) + length - now end
    end
    from = from + 2 * piece
    piece = PIECE
  end
end

local windows, allowed = {}, true
for i = 1, count do
  local key = KEYS[i]
  local at = 4 + (i - 1) * 5
  local window = {
    limit = tonumber(ARGV[at]),
    length = tonumber(ARGV[at + 1]) * 1000,
    size = tonumber(ARGV[at + 2]) * 1000,
    slots = isRepeated and 0 or tonumber(ARGV[at + 3]),
    entry = tonumber(ARGV[at + 4]),
  }
  window.ttl = math.ceil((window.length + window.size) / 1000)
  window.taken = prune(key, now - window.length)
  local future = takeFuture(key)
  if future > 0 then
    add(key, future, window.size)
    redis.call('PEXPIRE', key, window.ttl)
  end
  if not isRefund and window.slots > 0 and window.taken + window.slots > window.limit then allowed = false end
  windows[i] = window
end

local result = { allowed and 1 or 0 }
for i = 1, count do
  local key, window = KEYS[i], windows[i]
  local wanted = 1
  if not isRefund and window.slots > 0 and allowed then
    add(key, window.slots, window.size)
    window.taken = window.taken + window.slots
    redis.call('LSET', key, 0, text(window.taken))
    redis.call('PEXPIRE', key, window.ttl)
  elseif isRefund and window.slots > 0 and window.entry then
    window.taken = refund(key, window.entry, window.size, window.taken, window.slots)
  elseif not isRefund then
    wanted = math.max(1, window.slots)
  end
  result[#result + 1] = window.taken
  result[#result + 1] = math.ceil(untilFree(key, window.taken, window.limit, window.length, wanted) / 1000)
  result[#result + 1] = text(math.floor(now / window.size))
end
return result
