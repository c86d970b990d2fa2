-- Turns an upload into a file, all or none.
--
-- KEYS  stage, pieces, record, key, files, expiringFiles
-- ARGV  id, key id, bytes, number of pieces, name, purpose, ms that a file is kept, bytes that a key may store,
--       maximum of files, not after (ms since the epoch, on Redis's clock)
-- Returns {'stored', now}, or {'late'}, {'missing'} (part of the upload expired), {'revoked'}, {'too many'},
--         {'used up', bytes stored}

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if now > tonumber(ARGV[10]) then return { 'late' } end
local owner = redis.call('HMGET', KEYS[4], 'id', 'revoked_at_ms', 'file_bytes')
if not owner[1] or owner[2] then return { 'revoked' } end
if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[9]) then return { 'too many' } end
if redis.call('HLEN', KEYS[1]) ~= tonumber(ARGV[4]) then return { 'missing' } end
local stored = tonumber(owner[3] or '0')
if stored + tonumber(ARGV[3]) > tonumber(ARGV[8]) then return { 'used up', stored } end

if tonumber(ARGV[4]) > 0 then
  redis.call('RENAME', KEYS[1], KEYS[2])
  redis.call('PERSIST', KEYS[2])
end
local expires = now + tonumber(ARGV[7])
redis.call('HSET', KEYS[3], 'id', ARGV[1], 'key_id', ARGV[2], 'bytes', ARGV[3], 'pieces', ARGV[4], 'name', ARGV[5],
  'purpose', ARGV[6], 'created_at_ms', now, 'expires_at_ms', expires)
redis.call('HINCRBY', KEYS[4], 'file_bytes', ARGV[3])
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('ZADD', KEYS[6], expires, ARGV[2] .. ' ' .. ARGV[1])
return { 'stored', now }
