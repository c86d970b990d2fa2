-- Stores the results of a chunk, once, and hands out the caller's next chunk. Does nothing for a chunk that is already
-- stored, or for a job that has ended or expired.
--
-- KEYS  job, items, results, starts, resultBytes, key, backlog, inFlight, callers, unfinished, finished,
--       changes (a channel), counts
-- ARGV  id, chunk, caller, results (packed), number of answers, number of errors, maximum of chunks in flight,
--       ms that a finished job is kept, prefix of job keys, number of inputs of its items
-- Returns {1 if this ended the job, else 0, chunks handed out…}

local names = { 'job', 'items', 'results', 'starts', 'resultBytes', 'key', 'backlog', 'inFlight', 'callers', 'unfinished',
  'finished', 'changes', 'counts' }
local keys = {}
for i, name in ipairs(names) do keys[name] = KEYS[i] end
local id, chunk, answers, errors = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local status = redis.call('HGET', keys.job, 'status')
local ended = 0
redis.call('ZREM', keys.inFlight, id .. '/' .. chunk)
if live(status) and redis.call('HSETNX', keys.results, chunk, ARGV[4]) == 1 then
  if status == 'queued' then
    redis.call('HSET', keys.job, 'status', 'running', 'started_at_ms', now)
    if redis.call('HEXISTS', keys.job, 'rows') == 1 then
      count(keys, 'queued', -1)
      count(keys, 'running', 1)
    end
  end
  redis.call('HINCRBY', keys.job, 'completed', answers)
  redis.call('HINCRBY', keys.job, 'failed', errors)
  release(keys, tonumber(ARGV[10]))
  if redis.call('HINCRBY', keys.job, 'stored', 1) == tonumber(redis.call('HGET', keys.job, 'chunks')) then
    finish(keys, id, 'completed', '', now, tonumber(ARGV[8]))
    ended = 1
  else
    redis.call('PUBLISH', keys.changes, id)
  end
end
return { ended, unpack(handOut(keys, function(other) return ARGV[9] .. other end, ARGV[3], tonumber(ARGV[7]), now)) }
