-- Changes fields of a key's record.
--
-- KEYS  record
-- ARGV  pairs of field and value; '' removes the field
-- Returns 1, -1 for a key that does not exist, 0 for a revoked key

if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
if redis.call('HEXISTS', KEYS[1], 'revoked_at_ms') == 1 then return 0 end
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
