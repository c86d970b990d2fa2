-- Ends an unfinished batch (canceled, or failed with a reason) and lets the caller's other batches go on.
--
-- KEYS  job, texts, results, key, feed, out, callers, unfinished, finished, changes (a channel)
-- ARGV  id, caller, status, reason, most chunks out, ms that an ended batch is kept, prefix of job keys
-- Returns {1 if it was unfinished, {its chunks that were out}, {chunks marked out}}

local names = { 'job', 'texts', 'results', 'key', 'feed', 'out', 'callers', 'unfinished', 'finished', 'changes' }
local keys = {}
for i, name in ipairs(names) do keys[name] = KEYS[i] end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ended, dropped = 0, {}
if live(redis.call('HGET', keys.job, 'status')) then
  ended = 1
  dropped = finish(keys, ARGV[1], ARGV[3], ARGV[4], now, tonumber(ARGV[6]))
end
return {
  ended, dropped,
  feed(keys, function(other) return ARGV[7] .. other end, ARGV[2], tonumber(ARGV[5]), now),
}
