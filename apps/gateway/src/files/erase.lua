-- Erases a file.
--
-- KEYS  pieces, record, key, files, expiringFiles
-- ARGV  id, key id
-- Returns 1 if it was there, else 0

local bytes = redis.call('HGET', KEYS[2], 'bytes')
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[2] .. ' ' .. ARGV[1])
if not bytes then return 0 end
-- If the key's record was deleted and created again, its count may be lower.
local stored = tonumber(redis.call('HGET', KEYS[3], 'file_bytes') or '0')
if stored > 0 then redis.call('HSET', KEYS[3], 'file_bytes', string.format('%.0f', math.max(0, stored - tonumber(bytes)))) end
return 1
