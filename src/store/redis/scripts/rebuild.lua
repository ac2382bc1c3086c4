-- Puts counters and positions into the space of an epoch that is not in force yet. KEYS[1] is the key of the epoch, ARGV[1] the
-- new epoch, ARGV[2] the number of counters' parts; then counters, seconds and amounts in turn, then segments and bytes in turn.
if redis.call('GET', KEYS[1] .. ':rebuilt') ~= ARGV[1] then return {'LATE'} end
local space = string.sub(KEYS[1], 1, -6) .. ARGV[1] .. ':'
local parts = 3 + tonumber(ARGV[2]) * 3
for i = 3, parts - 1, 3 do
  local id, at, amount = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local kind, till = string.match(id, '^[^|]*|(%a)%-?%d*%-?(%-?%d*)|')
  local field = 'spent'
  if kind == 's' then field = 'b:' .. at end
  redis.call('HINCRBY', space .. 'c:' .. id, field, amount)
  local clock = tonumber(redis.call('TIME')[1])
  if kind == 'c' then redis.call('ZADD', space .. 'old', tonumber(till) + 86400, id) end
  if kind == 's' then redis.call('ZADD', space .. 'old', clock + 86400, id) end
  redis.call('ZINCRBY', space .. 'm', amount, id)
  redis.call('ZINCRBY', space .. 'm:' .. string.match(id, '^[^|]*'), amount, id)
end
for i = parts, #ARGV, 2 do redis.call('HSET', space .. 'p', ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1] .. ':rebuilt', 60000)
return {'OK'}
