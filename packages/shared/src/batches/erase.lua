-- Erases a finished batch: nothing of it stays.
--
-- KEYS  job, texts, results, index, finished
-- ARGV  id, key id
-- Returns 1 if it was finished or gone already, 0 if it is unfinished

if live(redis.call('HGET', KEYS[1], 'status')) then return 0 end
local idempotency = redis.call('HGET', KEYS[1], 'idempotency')
if idempotency and idempotency ~= '' and redis.call('HGET', idempotency, 'job') == ARGV[1] then
  redis.call('DEL', idempotency)
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[2] .. ' ' .. ARGV[1])
return 1
