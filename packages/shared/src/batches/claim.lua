-- Claims an idempotency entry for an upload, unless another stands there.
--
-- KEYS  idempotency entry
-- ARGV  id of the upload's batch, ms until the claim goes, id of a batch whose entry counts as absent ('' for none)
-- Returns {id of the batch that stands there now, fingerprint of its body ('' while it arrives)}

if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'job') == ARGV[3] then redis.call('DEL', KEYS[1]) end
if redis.call('HSETNX', KEYS[1], 'job', ARGV[1]) == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return { redis.call('HGET', KEYS[1], 'job'), redis.call('HGET', KEYS[1], 'fingerprint') or '' }
