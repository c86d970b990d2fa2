-- Erases a finished job with everything that belongs to it.
--
-- KEYS  job, items, results, starts, jobs, finished
-- ARGV  id, key id
-- Returns 1 if the job was finished or already gone, 0 if it is unfinished

if live(redis.call('HGET', KEYS[1], 'status')) then return 0 end
local idempotency = redis.call('HGET', KEYS[1], 'idempotency')
if idempotency and idempotency ~= '' and redis.call('HGET', idempotency, 'job') == ARGV[1] then
  redis.call('DEL', idempotency)
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[2] .. ' ' .. ARGV[1])
return 1
