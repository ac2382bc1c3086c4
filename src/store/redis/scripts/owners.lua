local answer = {'OK'}
local heard = redis.call('ZRANGE', space .. 'owners', 0, -1, 'WITHSCORES')
for i = 1, #heard, 2 do
  if redis.call('EXISTS', space .. 'o:' .. heard[i]) == 1 then
    answer[#answer + 1] = heard[i]
    answer[#answer + 1] = text(tonumber(heard[i + 1]))
  end
end
return answer
