-- Opens, renews or closes a stream of events of a key. A stream that is not renewed expires.
--
-- KEYS  streams of the key (a ZSET of stream ids by the time they expire)
-- ARGV  id of the stream, ms until it expires (0 to close it), maximum of open streams
-- Returns 1 if the stream was opened, renewed or closed, 0 if too many are open

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if tonumber(ARGV[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 1
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local isOpen = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not isOpen and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
