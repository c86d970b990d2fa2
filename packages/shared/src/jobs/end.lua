-- Ends an unfinished job (canceled, or failed with a reason) and lets the caller's other jobs continue.
--
-- KEYS  job, items, results, starts, resultBytes, key, backlog, inFlight, callers, unfinished, finished,
--       changes (a channel), counts
-- ARGV  id, caller, status, reason, maximum of chunks in flight, ms that a finished job is kept, prefix of job keys,
--       '1' to leave a job as it is whose id a replay of its request has been answered with, else ''
-- Returns {1 if it was unfinished, {its chunks that were in flight}, {chunks handed out}}

local names = { 'job', 'items', 'results', 'starts', 'resultBytes', 'key', 'backlog', 'inFlight', 'callers', 'unfinished',
  'finished', 'changes', 'counts' }
local keys = {}
for i, name in ipairs(names) do keys[name] = KEYS[i] end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ended, withdrawn = 0, {}
local isKept = ARGV[8] == '1' and redis.call('HEXISTS', keys.job, 'replayed') == 1
if not isKept and live(redis.call('HGET', keys.job, 'status')) then
  ended = 1
  withdrawn = finish(keys, ARGV[1], ARGV[3], ARGV[4], now, tonumber(ARGV[6]))
end
return {
  ended, withdrawn,
  handOut(keys, function(other) return ARGV[7] .. other end, ARGV[2], tonumber(ARGV[5]), now),
}
