-- Begins, renews or ends one of a limited number of activities. One that is not renewed expires.
--
-- KEYS  activities (a ZSET of ids by the time they expire)
-- ARGV  id, ms until it expires (0 to end it), maximum at once
-- Returns 1 if it was begun, renewed or ended, 0 if there are too many

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if tonumber(ARGV[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 1
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local isActive = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not isActive and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
