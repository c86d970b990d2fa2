-- Gives a key a new secret.
--
-- KEYS  record
-- ARGV  hash of the new secret, ms since the epoch until which the current one stays valid ('' to end it now)
-- Returns 1, or 0 for a key that does not exist or is revoked

if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HEXISTS', KEYS[1], 'revoked_at_ms') == 1 then return 0 end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'previous_hash', 'previous_until_ms')
else
  redis.call('HSET', KEYS[1], 'previous_hash', redis.call('HGET', KEYS[1], 'hash'), 'previous_until_ms', ARGV[2])
end
redis.call('HSET', KEYS[1], 'hash', ARGV[1])
return 1
