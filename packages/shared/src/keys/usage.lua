-- Adds what a gateway has counted to the usage of some keys, once, even if the call is repeated.
--
-- KEYS  last report of the gateway, then for each key: record, usage (a HASH from '<day>:<what>' to a number)
-- ARGV  number of this report (higher than the one before), ms that the number is kept, ms that usage is kept,
--       first day to keep, ms between updates of the time of last use;
--       then for each key: day (YYYY-MM-DD), requests, texts, refused, time of last use (ms; 0 for none)
-- Returns the records of keys that were skipped because their stored usage is malformed; nothing for a repeated call

if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return {} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local first, writeEvery = ARGV[4], tonumber(ARGV[5])
local function add(record, usage, at)
  local day, used = ARGV[at], tonumber(ARGV[at + 4])
  if redis.call('EXISTS', record) == 0 then return end
  for j, what in ipairs({ 'requests', 'texts', 'refused' }) do
    local count = tonumber(ARGV[at + j])
    if count > 0 and redis.call('HINCRBY', usage, day .. ':' .. what, count) == count then
      -- The first count of a day: remove the days that are too old.
      for _, field in ipairs(redis.call('HKEYS', usage)) do
        if string.sub(field, 1, 10) < first then redis.call('HDEL', usage, field) end
      end
    end
  end
  redis.call('PEXPIRE', usage, ARGV[3])
  if used - tonumber(redis.call('HGET', record, 'last_used_at_ms') or '0') >= writeEvery then
    redis.call('HSET', record, 'last_used_at_ms', string.format('%d', used))
  end
end

local skipped = {}
for i = 2, #KEYS, 2 do
  -- A malformed record must not prevent the usage of other keys from being stored.
  if not pcall(add, KEYS[i], KEYS[i + 1], 6 + (i - 2) / 2 * 5) then skipped[#skipped + 1] = KEYS[i] end
end
return skipped
