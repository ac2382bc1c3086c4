-- ARGV[3] is what to do with the position of the segment ARGV[4].
local positions = space .. 'p'
if ARGV[3] == 'forget' then
  redis.call('HDEL', positions, ARGV[4])
  return {'OK'}
elseif ARGV[3] == 'all' then
  local answer = {'OK'}
  for _, segment in ipairs(redis.call('HKEYS', positions)) do answer[#answer + 1] = segment end
  return answer
end
return {'OK', redis.call('HGET', positions, ARGV[4]) or '0'}
