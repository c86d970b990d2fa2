-- Shared by the scripts of the ledger. A job's record is the HASH `job`; names.ts lists the keys.

local function live(status) return status == 'queued' or status == 'running' end

-- How many jobs of a caller take turns. If all took turns, none of many would finish until nearly all had.
local TURNS = 4

-- Hands out chunks of one caller until `max` chunks are in flight. The oldest jobs take turns, TURNS at a time.
-- keys: backlog (LIST of jobs with chunks to hand out, the next ones first), inFlight (ZSET of '<job>/<chunk>'),
-- callers (SET of callers with chunks in flight).
-- Returns the chunks handed out, as '<job>/<chunk>'.
local function handOut(keys, jobKey, caller, max, now)
  local handedOut = {}
  while redis.call('ZCARD', keys.inFlight) < max do
    local id = redis.call('LINDEX', keys.backlog, 0)
    if not id then break end
    local job = jobKey(id)
    local record = redis.call('HMGET', job, 'status', 'next', 'chunks')
    if not live(record[1]) then
      redis.call('LPOP', keys.backlog)
    else
      local chunk = tonumber(record[2])
      redis.call('HSET', job, 'next', chunk + 1)
      redis.call('LPOP', keys.backlog)
      if chunk + 1 < tonumber(record[3]) then
        -- Behind the others that take turns.
        local last = redis.call('LINDEX', keys.backlog, TURNS - 2)
        if last then redis.call('LINSERT', keys.backlog, 'AFTER', last, id) else redis.call('RPUSH', keys.backlog, id) end
      end
      local member = id .. '/' .. chunk
      redis.call('ZADD', keys.inFlight, now, member)
      handedOut[#handedOut + 1] = member
    end
  end
  if redis.call('ZCARD', keys.inFlight) > 0 then
    redis.call('SADD', keys.callers, caller)
  else
    redis.call('SREM', keys.callers, caller)
  end
  return handedOut
end

-- Counts the unfinished jobs that were made from a file, and sets its expiry: as long as there are any, after the latest
-- time at which they end.
-- change: 1 when a job is accepted, -1 when it ends
local function keepFile(job, ends, change)
  local record = redis.call('HMGET', job, 'file', 'file_ttl', 'expiring_files', 'key_id')
  if not record[1] then return end
  local id = redis.call('HGET', record[1], 'id')
  if not id then return end
  local jobs = redis.call('HINCRBY', record[1], 'jobs', change)
  if change < 0 and jobs > 0 then return end
  local expires = ends + tonumber(record[2])
  redis.call('HSET', record[1], 'expires_at_ms', expires)
  redis.call('ZADD', record[3], expires, record[4] .. ' ' .. id)
end

-- Changes one of the counts that metrics show (HASH `counts`). A count that reaches 0 is removed.
local function count(keys, field, change)
  if redis.call('HINCRBY', keys.counts, field, change) <= 0 then redis.call('HDEL', keys.counts, field) end
end

-- Returns inputs to a key's bulk allowance, the bytes reserved for their results, and their rows. The rows of a job are divided
-- evenly over its inputs. If the key's record was deleted and created again, its count may be lower than `inputs`, so it
-- stops at 0.
local function release(keys, inputs)
  local job = redis.call('HMGET', keys.job, 'reserved', 'rows', 'model')
  local reserved, rows = tonumber(job[1] or '0'), tonumber(job[2] or '0')
  if inputs == 0 then return end
  redis.call('HINCRBY', keys.job, 'reserved', -inputs)
  if reserved > 0 and rows > 0 then
    local released = math.floor(rows * inputs / reserved)
    redis.call('HSET', keys.job, 'rows', rows - released)
    if released > 0 then count(keys, 'rows ' .. job[3], -released) end
  end
  local queued = tonumber(redis.call('HGET', keys.key, 'bulk_queued') or '0')
  if queued > 0 then redis.call('HSET', keys.key, 'bulk_queued', math.max(0, queued - inputs)) end
  local bytes = inputs * tonumber(redis.call('HGET', keys.job, 'result_bytes') or '0')
  local reservedBytes = tonumber(redis.call('GET', keys.resultBytes) or '0')
  if reservedBytes > bytes then
    redis.call('SET', keys.resultBytes, string.format('%.0f', reservedBytes - bytes))
  else
    redis.call('DEL', keys.resultBytes)
  end
end

-- Ends a job: sets its status and times, returns the rest of its reservation, withdraws its chunks in flight and sets
-- the expiry of all its keys. Returns the chunks that were in flight.
local function finish(keys, id, status, reason, now, ttl)
  local expires = now + ttl
  -- A job of an earlier version was not counted when it was accepted.
  if redis.call('HEXISTS', keys.job, 'rows') == 1 then count(keys, redis.call('HGET', keys.job, 'status'), -1) end
  count(keys, 'ended ' .. status, 1)
  redis.call('HSET', keys.job, 'status', status, 'finished_at_ms', now, 'expires_at_ms', expires)
  if reason ~= '' then redis.call('HSET', keys.job, 'error', reason) end
  local record = redis.call('HMGET', keys.job, 'reserved', 'idempotency', 'key_id')
  release(keys, tonumber(record[1]))
  local withdrawn = {}
  for _, member in ipairs(redis.call('ZRANGE', keys.inFlight, 0, -1)) do
    if string.sub(member, 1, #id + 1) == id .. '/' then
      redis.call('ZREM', keys.inFlight, member)
      withdrawn[#withdrawn + 1] = member
    end
  end
  redis.call('LREM', keys.backlog, 0, id)
  redis.call('ZREM', keys.unfinished, id)
  if redis.call('ZCARD', keys.unfinished) == 0 then
    -- Processes of an earlier version do not count what they end.
    for _, field in ipairs(redis.call('HKEYS', keys.counts)) do
      if string.sub(field, 1, 6) ~= 'ended ' then redis.call('HDEL', keys.counts, field) end
    end
  end
  redis.call('ZADD', keys.finished, expires, record[3] .. ' ' .. id)
  for _, key in ipairs({ keys.job, keys.items, keys.results, keys.starts }) do redis.call('PEXPIREAT', key, expires) end
  if record[2] ~= '' then
    -- A job without answers frees its idempotency key.
    if redis.call('HGET', record[2], 'job') == id then
      if status == 'completed' then
        redis.call('PEXPIREAT', record[2], expires)
      else
        redis.call('DEL', record[2])
      end
    end
  end
  keepFile(keys.job, now, -1)
  local webhook = redis.call('HMGET', keys.job, 'webhook', 'outbox', 'trace')
  if webhook[1] then
    redis.call('RPUSH', webhook[2], cjson.encode({
      job = id, key = record[3], status = status, reason = reason, at = now, webhook = webhook[1],
      trace = webhook[3] or nil,
    }))
  end
  redis.call('PUBLISH', keys.changes, id)
  return withdrawn
end
