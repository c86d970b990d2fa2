-- What the scripts of the ledger share. A batch's record is the HASH `job`; see names.ts for the keys.

local function live(status) return status == 'queued' or status == 'running' end

-- Marks chunks of one caller out, oldest batch first and in turn among its batches, until `most` are out.
-- keys: feed (LIST of batches with chunks to mark), out (ZSET of '<batch>/<chunk>'), callers (SET of who has any out).
-- Returns the chunks marked, as '<batch>/<chunk>'.
local function feed(keys, jobKey, caller, most, now)
  local marked = {}
  while redis.call('ZCARD', keys.out) < most do
    local id = redis.call('LINDEX', keys.feed, 0)
    if not id then break end
    local job = jobKey(id)
    local record = redis.call('HMGET', job, 'status', 'next', 'chunks')
    if not live(record[1]) then
      redis.call('LPOP', keys.feed)
    else
      local chunk = tonumber(record[2])
      redis.call('HSET', job, 'next', chunk + 1)
      if chunk + 1 >= tonumber(record[3]) then
        redis.call('LPOP', keys.feed)
      else
        redis.call('LMOVE', keys.feed, keys.feed, 'LEFT', 'RIGHT')
      end
      local member = id .. '/' .. chunk
      redis.call('ZADD', keys.out, now, member)
      marked[#marked + 1] = member
    end
  end
  if redis.call('ZCARD', keys.out) > 0 then
    redis.call('SADD', keys.callers, caller)
  else
    redis.call('SREM', keys.callers, caller)
  end
  return marked
end

-- Gives back places of a key's bulk allowance; a record that was made anew meanwhile owes nothing.
local function release(key, texts)
  local queued = tonumber(redis.call('HGET', key, 'bulk_queued') or '0')
  if queued > 0 then redis.call('HSET', key, 'bulk_queued', math.max(0, queued - texts)) end
end

-- Ends a batch: status, times, what is left of its reservation, its chunks out, and when all of it is to go. Returns
-- the chunks that were out.
local function finish(keys, id, status, reason, now, ttl)
  local expires = now + ttl
  redis.call('HSET', keys.job, 'status', status, 'finished_at_ms', now, 'expires_at_ms', expires)
  if reason ~= '' then redis.call('HSET', keys.job, 'error', reason) end
  local record = redis.call('HMGET', keys.job, 'reserved', 'idempotency', 'key_id')
  release(keys.key, tonumber(record[1]))
  redis.call('HSET', keys.job, 'reserved', 0)
  local dropped = {}
  for _, member in ipairs(redis.call('ZRANGE', keys.out, 0, -1)) do
    if string.sub(member, 1, #id + 1) == id .. '/' then
      redis.call('ZREM', keys.out, member)
      dropped[#dropped + 1] = member
    end
  end
  redis.call('LREM', keys.feed, 0, id)
  redis.call('ZREM', keys.unfinished, id)
  redis.call('ZADD', keys.finished, expires, record[3] .. ' ' .. id)
  for _, key in ipairs({ keys.job, keys.texts, keys.results }) do redis.call('PEXPIREAT', key, expires) end
  if record[2] ~= '' then
    -- A batch that gave no answers frees its idempotency key.
    if status == 'completed' then
      redis.call('PEXPIREAT', record[2], expires)
    else
      redis.call('DEL', record[2])
    end
  end
  redis.call('PUBLISH', keys.changes, id)
  return dropped
end
