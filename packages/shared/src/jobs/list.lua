-- A page of a caller's jobs, newest first, in one call.
--
-- KEYS  jobs
-- ARGV  how many to skip, maximum of the page, prefix of job keys
-- Returns {1 if more follow, else 0, then the fields and values of each record; none for a job that has expired}

local ids = redis.call('ZREVRANGE', KEYS[1], ARGV[1], ARGV[1] + ARGV[2])
local count = tonumber(ARGV[2])
local result = { #ids > count and 1 or 0 }
for i = 1, math.min(#ids, count) do result[i + 1] = redis.call('HGETALL', ARGV[3] .. ids[i]) end
return result
