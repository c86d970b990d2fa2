-- Accepts a staged batch: its record, texts, idempotency entry and reservation stand in Redis, or none does. Marks its
-- first chunks out.
--
-- KEYS  stage, job, texts, key, index, feed, out, callers, unfinished
-- ARGV  id, caller ('<model> <key id>'), key id, model, texts, chunks, ms until it fails unfinished, most chunks out,
--       not after (ms; '' for never), fingerprint of the body, prefix of job keys,
--       idempotency entry ('' for none), revision of the model
-- Returns {'accepted', now, marked…}, or {'late'}, {'missing'} (a piece of the upload), {'revoked'},
--         {'too large', limit}, {'allowance', limit, queued}, {'replaced'} (the idempotency entry is another upload's)

local names = { 'stage', 'job', 'texts', 'key', 'index', 'feed', 'out', 'callers', 'unfinished' }
local keys = {}
for i, name in ipairs(names) do keys[name] = KEYS[i] end
local id, caller, keyId, model, total, chunks = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])

local idempotency = ARGV[12]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[9] ~= '' and now > tonumber(ARGV[9]) then return { 'late' } end
if redis.call('HLEN', keys.stage) ~= chunks then return { 'missing' } end
local owner = redis.call('HMGET', keys.key, 'revoked_at_ms', 'bulk_limit', 'bulk_queued')
if owner[1] or not owner[2] then return { 'revoked' } end
local limit, queued = tonumber(owner[2]), tonumber(owner[3] or '0')
if total > limit then return { 'too large', limit } end
if queued + total > limit then return { 'allowance', limit, queued } end
if idempotency ~= '' then
  if redis.call('HGET', idempotency, 'job') ~= id then return { 'replaced' } end
  redis.call('HSET', idempotency, 'fingerprint', ARGV[10])
  redis.call('PERSIST', idempotency)
end

redis.call('RENAME', keys.stage, keys.texts)
redis.call('PERSIST', keys.texts)
redis.call('HSET', keys.job, 'v', '1', 'id', id, 'key_id', keyId, 'model', model, 'revision', ARGV[13], 'status', 'queued',
  'total', total, 'chunks', chunks, 'next', 0, 'stored', 0, 'completed', 0, 'failed', 0, 'reserved', total,
  'created_at_ms', now, 'idempotency', idempotency)
redis.call('HINCRBY', keys.key, 'bulk_queued', total)
redis.call('ZADD', keys.index, now, id)
redis.call('ZADD', keys.unfinished, now + tonumber(ARGV[7]), id)
redis.call('RPUSH', keys.feed, id)
local marked = feed(keys, function(other) return ARGV[11] .. other end, caller, tonumber(ARGV[8]), now)
return { 'accepted', now, unpack(marked) }
