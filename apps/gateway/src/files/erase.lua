-- Erases a file.
--
-- KEYS  pieces, record, key, files, expiringFiles
-- ARGV  id, key id, leave a file that expires after this (ms since the epoch; '' to erase any)
-- Returns 1 if it was there, else 0

local record = redis.call('HMGET', KEYS[2], 'bytes', 'expires_at_ms')
local bytes = record[1]
if ARGV[3] ~= '' and record[2] and tonumber(record[2]) > tonumber(ARGV[3]) then return 0 end
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[2] .. ' ' .. ARGV[1])
if not bytes then return 0 end
-- If the key's record was deleted and created again, its count may be lower.
local stored = tonumber(redis.call('HGET', KEYS[3], 'file_bytes') or '0')
if stored > 0 then redis.call('HSET', KEYS[3], 'file_bytes', string.format('%.0f', math.max(0, stored - tonumber(bytes)))) end
return 1
