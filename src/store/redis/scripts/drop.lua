-- Removes a part of an epoch that is not in force any more: ARGV[1]. Answers how many counters went.
local space = string.sub(KEYS[1], 1, -6) .. ARGV[1] .. ':'
local ids = redis.call('ZRANGE', space .. 'm', 0, 499)
for _, id in ipairs(ids) do
  redis.call('UNLINK', space .. 'c:' .. id, space .. 'm:' .. string.match(id, '^[^|]*'))
  redis.call('ZREM', space .. 'm', id)
end
if #ids == 0 then
  for _, owner in ipairs(redis.call('ZRANGE', space .. 'owners', 0, -1)) do redis.call('UNLINK', space .. 'o:' .. owner) end
  redis.call('UNLINK', space .. 'owners', space .. 'p', space .. 'wanted', space .. 'old')
end
return {'OK', string.format('%d', #ids)}
