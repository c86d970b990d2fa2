-- Stores the results of a chunk, once, and marks the caller's next chunk out. Does nothing for a chunk that is stored
-- or a batch that has ended or gone.
--
-- KEYS  job, texts, results, key, feed, out, callers, unfinished, finished, changes (a channel)
-- ARGV  id, chunk, caller, results (JSON), answers, errors, most chunks out, ms that an ended batch is kept, prefix of
--       job keys
-- Returns {1 if stored, marked…}

local names = { 'job', 'texts', 'results', 'key', 'feed', 'out', 'callers', 'unfinished', 'finished', 'changes' }
local keys = {}
for i, name in ipairs(names) do keys[name] = KEYS[i] end
local id, chunk, answers, errors = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local status = redis.call('HGET', keys.job, 'status')
local stored = 0
redis.call('ZREM', keys.out, id .. '/' .. chunk)
if live(status) and redis.call('HSETNX', keys.results, chunk, ARGV[4]) == 1 then
  stored = 1
  if status == 'queued' then redis.call('HSET', keys.job, 'status', 'running', 'started_at_ms', now) end
  redis.call('HINCRBY', keys.job, 'completed', answers)
  redis.call('HINCRBY', keys.job, 'failed', errors)
  redis.call('HINCRBY', keys.job, 'reserved', -(answers + errors))
  release(keys.key, answers + errors)
  if redis.call('HINCRBY', keys.job, 'stored', 1) == tonumber(redis.call('HGET', keys.job, 'chunks')) then
    finish(keys, id, 'completed', '', now, tonumber(ARGV[8]))
  else
    redis.call('PUBLISH', keys.changes, id)
  end
end
return { stored, unpack(feed(keys, function(other) return ARGV[9] .. other end, ARGV[3], tonumber(ARGV[7]), now)) }
