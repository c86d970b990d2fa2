-- Accepts a staged job: writes its record, items, idempotency entry and reservation, all or none. Hands out its first
-- chunks.
--
-- KEYS  stage, stageStarts, job, items, starts, key, jobs, backlog, inFlight, callers, unfinished, resultBytes, counts
-- ARGV  id, caller ('<model> <key id>'), key id, model, number of items, number of chunks, ms until an unfinished job
--       fails, maximum of chunks in flight, not after (ms since the epoch, on Redis's clock; '' for no limit), fingerprint of the body, prefix of job
--       keys, idempotency entry ('' for none), revision of the model, parameters (JSON),
--       bytes that the result of an input will take, hash of the model spec, number of inputs, what the API family keeps
--       with the job (JSON; '' for nothing), record of the file that it was made from ('' for none), ms that a file is kept,
--       files that expire, webhook (JSON; '' for none), outbox, number of rows, trace context (JSON; '' for none)
-- Returns {'accepted', now, chunks handed out…}, or {'known', id} (the idempotency entry names a job with the same
--         fingerprint), {'mismatch'} (with another one), {'late'}, {'missing'} (part of the upload expired), {'revoked'},
--         {'too large', limit}, {'allowance', limit, queued}

local names = { 'stage', 'stageStarts', 'job', 'items', 'starts', 'key', 'jobs', 'backlog', 'inFlight', 'callers',
  'unfinished', 'resultBytes', 'counts' }
local keys = {}
for i, name in ipairs(names) do keys[name] = KEYS[i] end
local id, caller, keyId, model, total, chunks = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])

local idempotency = ARGV[12]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[9] ~= '' and now > tonumber(ARGV[9]) then return { 'late' } end
local owner = redis.call('HMGET', keys.key, 'revoked_at_ms', 'bulk_limit', 'bulk_queued')
if owner[1] or not owner[2] then return { 'revoked' } end
if idempotency ~= '' then
  local entry = redis.call('HMGET', idempotency, 'job', 'fingerprint')
  local status = entry[1] and redis.call('HGET', ARGV[11] .. entry[1], 'status')
  -- The entry of a job that has expired, failed or been canceled counts as absent.
  if live(status) or status == 'completed' then
    if entry[2] == ARGV[10] then
      redis.call('HSET', ARGV[11] .. entry[1], 'replayed', 1)
      return { 'known', entry[1] }
    end
    return { 'mismatch' }
  end
end
if redis.call('HLEN', keys.stage) ~= chunks or redis.call('STRLEN', keys.stageStarts) ~= 4 * chunks then
  return { 'missing' }
end
local limit, queued = tonumber(owner[2]), tonumber(owner[3] or '0')
local inputs = tonumber(ARGV[17])
if inputs > limit then return { 'too large', limit } end
if queued + inputs > limit then return { 'allowance', limit, queued } end
if idempotency ~= '' then
  redis.call('HSET', idempotency, 'job', id, 'fingerprint', ARGV[10])
  redis.call('PERSIST', idempotency)
end

redis.call('RENAME', keys.stage, keys.items)
redis.call('PERSIST', keys.items)
redis.call('RENAME', keys.stageStarts, keys.starts)
redis.call('PERSIST', keys.starts)
redis.call('HSET', keys.job, 'v', '4', 'id', id, 'key_id', keyId, 'model', model, 'revision', ARGV[13],
  'parameters', ARGV[14], 'status', 'queued', 'total', total, 'chunks', chunks, 'next', 0, 'stored', 0, 'completed', 0,
  'failed', 0, 'reserved', inputs, 'created_at_ms', now, 'idempotency', idempotency,
  'result_bytes', ARGV[15], 'spec_hash', ARGV[16], 'rows', ARGV[24])
if ARGV[18] ~= '' then redis.call('HSET', keys.job, 'details', ARGV[18]) end
if ARGV[19] ~= '' then
  redis.call('HSET', keys.job, 'file', ARGV[19], 'file_ttl', ARGV[20], 'expiring_files', ARGV[21])
  -- Until the job has ended, at the latest.
  keepFile(keys.job, now + tonumber(ARGV[7]), 1)
end
if ARGV[22] ~= '' then redis.call('HSET', keys.job, 'webhook', ARGV[22], 'outbox', ARGV[23]) end
if ARGV[25] ~= '' then redis.call('HSET', keys.job, 'trace', ARGV[25]) end
count(keys, 'queued', 1)
count(keys, 'rows ' .. model, tonumber(ARGV[24]))
redis.call('INCRBY', keys.resultBytes, inputs * tonumber(ARGV[15]))
redis.call('HINCRBY', keys.key, 'bulk_queued', inputs)
redis.call('ZADD', keys.jobs, now, id)
redis.call('ZADD', keys.unfinished, now + tonumber(ARGV[7]), id)
redis.call('RPUSH', keys.backlog, id)
local handedOut = handOut(keys, function(other) return ARGV[11] .. other end, caller, tonumber(ARGV[8]), now)
return { 'accepted', now, unpack(handedOut) }
