-- ARGV from 3 on: counters and amounts in turn.
for i = 3, #ARGV, 2 do
  local counter = load(ARGV[i])
  local amount = math.max(0, tonumber(ARGV[i + 1]))
  if counter.burst then
    counter.room = math.min(counter.burst, counter.room + amount)
    set_room(counter)
  end
  lower_own(counter, amount)
end
return {'OK'}
