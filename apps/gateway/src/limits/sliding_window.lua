-- Takes, looks at or gives back places in the sliding windows of one caller, all of them or none.
--
-- KEYS[i]   a LIST for each window: the number of places taken, then pairs of tick and count, oldest first.
--           Requests of one tick share a pair, so that a list is bounded whatever the limit.
-- ARGV[1]   now, in ms since the epoch; '' for Redis's own clock
-- ARGV[2]   later than this, in ms since the epoch, nothing is written: whoever asked has gone; '' for no such time
-- ARGV[3]   places to take, all or none; 0 to look; negative to give back
-- ARGV[4+]  for each window: limit, length in ms, length of a tick in ms, and the tick to give back to ('' else)
--
-- Returns {1 if taken or looked at, 0 if refused, then for each window: places taken, ms until the next comes free
-- (0 when all are free), tick}.
--
-- A request at s stands at the end of its tick, T >= s, and counts while T > now - length, with now rounded down:
-- its place comes free at most one tick late and never early.

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
end
local notAfter = tonumber(ARGV[2])
if notAfter and now > notAfter then return redis.error_reply('LATE nobody waits for this any more') end
local points = tonumber(ARGV[3])
-- The oldest pair usually says it all; where it does not, the list is read in pieces of this many pairs.
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

-- A clock that was set back leaves entries in the future. They become requests of now: late, never early.
local function rewind(key, tick)
  local moved = 0
  while true do
    local last = tonumber(redis.call('LINDEX', key, -2))
    if not last or redis.call('LLEN', key) < 3 or last <= tick then break end
    moved = moved + tonumber(redis.call('RPOP', key, 2)[1])
  end
  return moved
end

local function add(key, tick, count)
  if redis.call('EXISTS', key) == 0 then redis.call('RPUSH', key, '0') end
  if redis.call('LLEN', key) >= 3 and tonumber(redis.call('LINDEX', key, -2)) == tick then
    redis.call('LSET', key, -1, text(tonumber(redis.call('LINDEX', key, -1)) + count))
  else
    redis.call('RPUSH', key, text(tick), text(count))
  end
end

local function giveBack(key, tick, taken)
  local at = redis.call('LPOS', key, text(tick), 'RANK', -1)
  if not at or at % 2 == 0 then return taken end
  local count = tonumber(redis.call('LINDEX', key, at + 1)) - 1
  if count > 0 then
    redis.call('LSET', key, at + 1, text(count))
  else
    redis.call('LSET', key, at, 'x')
    redis.call('LSET', key, at + 1, 'x')
    redis.call('LREM', key, 2, 'x')
  end
  taken = taken - 1
  if taken > 0 then redis.call('LSET', key, 0, text(taken)) else redis.call('DEL', key) end
  return taken
end

-- How long until fewer than `limit` places are taken; with places left, until the oldest comes free.
local function untilFree(key, taken, limit, length, tick)
  local needed = math.max(1, taken - limit + 1)
  local from, chunk = 1, 1
  while true do
    local entries = redis.call('LRANGE', key, from, from + 2 * chunk - 1)
    if #entries == 0 then return 0 end
    for i = 1, #entries, 2 do
      needed = needed - tonumber(entries[i + 1])
      if needed <= 0 then return math.max(1, math.ceil(math.min(tonumber(entries[i]), tick) + length - now)) end
    end
    from = from + 2 * chunk
    chunk = CHUNK
  end
end

local windows, allowed = {}, true
for i, key in ipairs(KEYS) do
  local at = 4 + (i - 1) * 4
  local window = {
    limit = tonumber(ARGV[at]), length = tonumber(ARGV[at + 1]), size = tonumber(ARGV[at + 2]),
    entry = tonumber(ARGV[at + 3]),
  }
  window.tick = math.ceil(now / window.size) * window.size
  window.taken = prune(key, math.floor(now) - window.length)
  local moved = rewind(key, window.tick)
  if moved > 0 then
    add(key, window.tick, moved)
    redis.call('PEXPIRE', key, window.length + window.size)
  end
  if window.taken + points > window.limit and points > 0 then allowed = false end
  windows[i] = window
end

local result = { allowed and 1 or 0 }
for i, key in ipairs(KEYS) do
  local window = windows[i]
  if points > 0 and allowed then
    add(key, window.tick, points)
    window.taken = window.taken + points
    redis.call('LSET', key, 0, text(window.taken))
    redis.call('PEXPIRE', key, window.length + window.size)
  elseif points < 0 and window.entry then
    window.taken = giveBack(key, window.entry, window.taken)
  end
  result[#result + 1] = window.taken
  result[#result + 1] = untilFree(key, window.taken, window.limit, window.length, window.tick)
  result[#result + 1] = text(window.tick)
end
return result
