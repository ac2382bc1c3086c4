-- ARGV[3] is a segment, ARGV[4] and ARGV[5] its position before and after; then counters, seconds and amounts in turn.
local positions = space .. 'p'
if (redis.call('HGET', positions, ARGV[3]) or '0') ~= ARGV[4] then return {'STALE'} end
local counter
for i = 6, #ARGV, 3 do
  if not counter or counter.id ~= ARGV[i] then
    if counter then index(counter) end
    counter = load(ARGV[i])
  end
  if not counter.burst and counter.kind ~= 'n' then
    local amount = tonumber(ARGV[i + 2])
    if counter.kind == 's' then
      -- Nobody spends in the future, whatever the clock of the process that charged says.
      local at = math.min(tonumber(ARGV[i + 1]), second)
      if at >= second - counter.from then
        add(counter.id, 'b:' .. text(at), ARGV[i + 2])
        counter.spent = counter.spent + amount
      end
    else
      add(counter.id, 'spent', ARGV[i + 2])
      counter.spent = counter.spent + amount
    end
    lower_own(counter, amount)
  end
end
if counter then index(counter) end
redis.call('HSET', positions, ARGV[3], ARGV[5])
return {'OK'}
