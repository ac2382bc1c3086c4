-- ARGV[3] is a counter, ARGV[4] what is added to what is spent.
local counter = load(ARGV[3])
local delta = tonumber(ARGV[4])
if counter.burst then
  counter.room = math.min(counter.burst, counter.room - delta)
  counter.spent = math.ceil(counter.burst - counter.room)
  set_room(counter)
elseif counter.kind == 's' then
  if delta >= 0 then
    add(counter.id, 'b:' .. text(second), ARGV[4])
  else
    local rest = -delta
    for i = #counter.buckets, 1, -1 do
      -- The opposite of nothing would be written as -0, which Redis takes for no number.
      if rest <= 0 then break end
      local part = math.min(rest, counter.buckets[i][2])
      rest = rest - part
      if part == counter.buckets[i][2] then
        redis.call('HDEL', key(counter.id), 'b:' .. text(counter.buckets[i][1]))
      else
        add(counter.id, 'b:' .. text(counter.buckets[i][1]), text(-part))
      end
    end
  end
  counter.spent = math.max(0, counter.spent + delta)
elseif counter.kind ~= 'n' then
  if counter.spent + delta <= 0 then
    redis.call('HSET', key(counter.id), 'spent', '0')
  else
    add(counter.id, 'spent', ARGV[4])
  end
  counter.spent = math.max(0, counter.spent + delta)
end
if redis.call('EXISTS', key(counter.id)) == 1 then index(counter) end
return {'OK'}
