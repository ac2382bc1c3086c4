-- ARGV[3] is a limit or empty, ARGV[4] the most. Each counter is answered as its id, cap, spent, the number of leases, and these.
local list = space .. 'm'
if ARGV[3] ~= '' then list = list .. ':' .. ARGV[3] end
local answer = {'OK'}
for _, id in ipairs(redis.call('ZREVRANGE', list, 0, tonumber(ARGV[4]) - 1)) do
  local counter = load(id)
  answer[#answer + 1] = id
  answer[#answer + 1] = text(counter.cap)
  answer[#answer + 1] = text(counter.spent)
  answer[#answer + 1] = text(#counter.leases)
  for _, lease in ipairs(counter.leases) do
    answer[#answer + 1] = lease[1]
    answer[#answer + 1] = text(lease[2])
  end
end
return answer
