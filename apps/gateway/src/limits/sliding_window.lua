-- Takes, looks at or gives back places in the sliding windows of one caller, all of them or none.
--
-- KEYS[i]   a LIST for each window: the number of places taken, then pairs of time (µs since the epoch) and count,
--           oldest first. Requests of one tick share a pair, under the time of the latest, so that a list is bounded
--           whatever the limit, and a place comes free at most one tick late and never early.
-- KEYS[n+1] with places given back: a mark that they were, for a call that is made twice
-- ARGV[1]   now, in ms since the epoch; '' for Redis's own clock
-- ARGV[2]   later than this, in ms since the epoch, nothing is written: whoever asked has gone; '' for no such time
-- ARGV[3]   places to take, all or none; 0 to look; -1 to give one back
-- ARGV[4+]  for each window: limit, length in ms, length of a tick in ms, and the tick to give back to ('' else)
--
-- Returns {1 if taken or looked at, 0 if refused, then for each window: places taken, ms until the next comes free
-- (0 when all are free), number of this request's tick}.
--
-- A request at s counts while s > now - length: the window is half-open, (now - length, now].

local now = tonumber(ARGV[1])
if now then
  now = math.floor(now * 1000)
else
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local notAfter = tonumber(ARGV[2])
if notAfter and now > notAfter * 1000 then
  return redis.error_reply('LATE nobody waits for this any more')
end
local points = tonumber(ARGV[3])
local count = (#ARGV - 3) / 4
local mark = KEYS[count + 1]
if mark and not redis.call('SET', mark, '1', 'NX', 'PX', 60000) then points = 0 end
-- The oldest or latest pair usually says it all; where it does not, the list is read in pieces of this many pairs.
local CHUNK = 100

local function text(number) return string.format('%d', number) end

-- Drops what has left the window; returns the number of places still taken.
local function prune(key, horizon)
  local taken = tonumber(redis.call('LINDEX', key, 0) or '0')
  local gone, chunk = 0, 1
  while true do
    local entries = redis.call('LRANGE', key, 1 + gone, gone + 2 * chunk)
    local i = 1
    while entries[i] and tonumber(entries[i]) <= horizon do
      taken = taken - tonumber(entries[i + 1])
      i = i + 2
    end
    gone = gone + i - 1
    if i <= 2 * chunk then break end
    chunk = CHUNK
  end
  if gone > 0 then
    redis.call('LPOP', key, 1 + gone)
    if taken > 0 then redis.call('LPUSH', key, text(taken)) end
  end
  return taken
end

-- A clock that was set back leaves entries in the future. They become requests of now: their places come free late,
-- never early. Returns how many there are, taken out of the list.
local function takeFuture(key)
  local count = 0
  while redis.call('LLEN', key) >= 3 and tonumber(redis.call('LINDEX', key, -2)) > now do
    count = count + tonumber(redis.call('RPOP', key, 2)[1])
  end
  return count
end

-- Notes `count` requests of now. The number at the head is the caller's affair.
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

-- Gives back one place of a tick, if the tick is there; returns the number of places still taken.
local function giveBack(key, tick, size, taken)
  local last = redis.call('LLEN', key) - 1
  local chunk = 1
  while last >= 2 do
    local first = math.max(1, last - 2 * chunk + 1)
    local entries = redis.call('LRANGE', key, first, last)
    for i = #entries - 1, 1, -2 do
      local entryTick = math.floor(tonumber(entries[i]) / size)
      if entryTick < tick then return taken end
      if entryTick == tick then
        local at, count = first + i - 1, tonumber(entries[i + 1]) - 1
        if count > 0 then
          redis.call('LSET', key, at + 1, text(count))
        else
          redis.call('LSET', key, at, 'x')
          redis.call('LSET', key, at + 1, 'x')
          redis.call('LREM', key, 2, 'x')
        end
        if taken > 1 then redis.call('LSET', key, 0, text(taken - 1)) else redis.call('DEL', key) end
        return taken - 1
      end
    end
    last = first - 1
    chunk = CHUNK
  end
  return taken
end

-- µs until fewer than `limit` places are taken; with places left, until the oldest comes free; 0 when all are free.
local function untilFree(key, taken, limit, length)
  local needed = math.max(1, taken - limit + 1)
  local from, chunk = 1, 1
  while true do
    local entries = redis.call('LRANGE', key, from, from + 2 * chunk - 1)
    if #entries == 0 then return 0 end
    for i = 1, #entries, 2 do
      needed = needed - tonumber(entries[i + 1])
      if needed <= 0 then return tonumber(entries[i]) + length - now end
    end
    from = from + 2 * chunk
    chunk = CHUNK
  end
end

local windows, allowed = {}, true
for i = 1, count do
  local key = KEYS[i]
  local at = 4 + (i - 1) * 4
  local window = {
    limit = tonumber(ARGV[at]),
    length = tonumber(ARGV[at + 1]) * 1000,
    size = tonumber(ARGV[at + 2]) * 1000,
    entry = tonumber(ARGV[at + 3]),
  }
  window.ttl = math.ceil((window.length + window.size) / 1000)
  window.taken = prune(key, now - window.length)
  local future = takeFuture(key)
  if future > 0 then
    add(key, future, window.size)
    redis.call('PEXPIRE', key, window.ttl)
  end
  if points > 0 and window.taken + points > window.limit then allowed = false end
  windows[i] = window
end

local result = { allowed and 1 or 0 }
for i = 1, count do
  local key, window = KEYS[i], windows[i]
  if points > 0 and allowed then
    add(key, points, window.size)
    window.taken = window.taken + points
    redis.call('LSET', key, 0, text(window.taken))
    redis.call('PEXPIRE', key, window.ttl)
  elseif points < 0 and window.entry then
    window.taken = giveBack(key, window.entry, window.size, window.taken)
  end
  result[#result + 1] = window.taken
  result[#result + 1] = math.ceil(untilFree(key, window.taken, window.limit, window.length) / 1000)
  result[#result + 1] = text(math.floor(now / window.size))
end
return result
