redis.call('ZADD', space .. 'owners', text(now), owner)
redis.call('ZREMRANGEBYSCORE', space .. 'wanted', '-inf', text(now))
-- A clock that has been put back since wrote what counts for longer than a refusal does.
redis.call('ZREMRANGEBYSCORE', space .. 'wanted', '(' .. text(now + 2000000), '+inf')
local answer = {'OK', text(now)}
for _, id in ipairs(redis.call('ZRANGE', space .. 'wanted', 0, -1)) do
  local counter = load(id)
  if counter.own > 0 then
    for _, other in ipairs(counter.wanted) do
      if other ~= owner then
        answer[#answer + 1] = id
        break
      end
    end
  end
end
return answer
