-- ARGV[3] is for how long an owner must have been silent, in microseconds. Answers how many counters were looked at.
local STEP = 1000
for _, who in ipairs(redis.call('ZRANGEBYSCORE', space .. 'owners', '-inf', text(now - tonumber(ARGV[3])))) do
  for _, id in ipairs(redis.call('SMEMBERS', space .. 'o:' .. who)) do
    if window(id) == 'n' then
      redis.call('HDEL', key(id), 'l:' .. who)
      redis.call('SREM', space .. 'o:' .. who, id)
    end
  end
  if redis.call('EXISTS', space .. 'o:' .. who) == 0
    and tonumber(redis.call('ZSCORE', space .. 'owners', who)) < now - 86400000000 then
    redis.call('ZREM', space .. 'owners', who)
  end
end
local old = redis.call('ZRANGEBYSCORE', space .. 'old', '-inf', second, 'LIMIT', 0, STEP)
for _, id in ipairs(old) do
  local counter = load(id)
  if counter.kind ~= 'c' and counter.leased > 0 then
    redis.call('ZADD', space .. 'old', second + 86400, id)
  else
    for _, lease in ipairs(counter.leases) do redis.call('SREM', space .. 'o:' .. lease[1], id) end
    redis.call('DEL', key(id))
    for _, list in ipairs({'old', 'm', 'wanted', 'm:' .. string.match(id, '^[^|]*')}) do
      redis.call('ZREM', space .. list, id)
    end
  end
end
return {'OK', text(#old)}
