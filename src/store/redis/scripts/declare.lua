-- ARGV from 3 on: owners, counters and leases that their holder still has after the counters were rebuilt.
for i = 3, #ARGV, 3 do
  owner = ARGV[i]
  local counter = load(ARGV[i + 1])
  if counter.own == 0 then
    set_lease(counter, owner, tonumber(ARGV[i + 2]))
    index(counter)
  end
  redis.call('ZADD', space .. 'owners', text(now), owner)
end
return {'OK'}
