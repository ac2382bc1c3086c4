-- ARGV[3] is the number of the rules by which the caller leases; from 4 on, for each want: its counter, cap, need, wish, burst and
-- period (both empty unless paced), ahead.
local rules = string.sub(KEYS[1], 1, -6) .. 'protocol'
local found, known = tonumber(redis.call('GET', rules) or '0'), tonumber(ARGV[3])
if found > known then return {'NEWER', text(found)} end
if found < known then redis.call('SET', rules, ARGV[3]) end
if now < hold then return {'HOLD'} end
redis.call('ZADD', space .. 'owners', text(now), owner)
local answer = {'OK', text(now)}

local function pace(counter, burst, period)
  if not counter.burst then
    -- After a loss nobody knows what was granted in the last period, so it starts as if all of it was.
    counter.room = burst
    counter.spent = 0
    if lost_at > 0 and now < lost_at + period then
      counter.room = math.min(burst, (now - lost_at) * counter.cap / period)
      counter.spent = math.ceil(burst - counter.room)
    end
  elseif counter.room > burst then
    counter.room = burst
  end
  counter.burst, counter.period = burst, period
  redis.call('HSET', key(counter.id), 'burst', text(burst), 'period', text(period))
end

local function flow(counter, need, wish, ahead)
  local room = math.floor(counter.room)
  local granted = 0
  if room >= need and room > 0 then
    granted = math.max(math.min(wish, room), need, 0)
    granted = granted + math.max(math.min(ahead, room - granted - math.floor(counter.burst / 2)), 0)
  end
  counter.room = counter.room - granted
  counter.spent = math.ceil(counter.burst - counter.room)
  set_room(counter)
  local later = -1
  if granted == 0 and need > 0 and need <= counter.burst and counter.cap > 0 then
    later = math.floor((need - counter.room) * counter.period / counter.cap) + 1
  end
  return granted, later
end

-- When enough of a sliding window has left it.
local function later(counter, need)
  if counter.kind ~= 's' then return -1 end
  local missing = need - free(counter)
  for _, bucket in ipairs(counter.buckets) do
    missing = missing - bucket[2]
    if missing <= 0 then return (bucket[1] + counter.from + 1) * 1000000 - now end
  end
  return -1
end

local function want(counter, need, wish)
  local room = free(counter)
  local granted = 0
  if room >= need and room > 0 then granted = math.max(math.min(wish, math.floor(room / 4)), need, 0) end
  if granted > 0 then
    counter.own = counter.own + granted
    counter.leased = counter.leased + granted
    set_lease(counter, owner, counter.own)
  end
  if granted > 0 or need <= 0 then
    redis.call('HDEL', key(counter.id), 'w:' .. owner)
    return granted, -1
  end
  local till = text(now + 2000000)
  redis.call('HSET', key(counter.id), 'w:' .. owner, till)
  redis.call('ZADD', space .. 'wanted', till, counter.id)
  return granted, later(counter, need)
end

for i = 4, #ARGV, 7 do
  local counter = load(ARGV[i])
  local need, wish = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local granted, retry, wrong = 0, -1, 0
  if counter.kind == 'c' and (second < counter.from or second >= counter.till) then
    wrong = 1
  else
    counter.cap = tonumber(ARGV[i + 1])
    if need > 0 or counter.exists then
      redis.call('HSET', key(counter.id), 'cap', ARGV[i + 1])
      if #counter.stale > 0 then redis.call('HDEL', key(counter.id), unpack(counter.stale)) end
    end
    if ARGV[i + 4] ~= '' then
      pace(counter, tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5]))
      granted, retry = flow(counter, need, wish, tonumber(ARGV[i + 6]))
      index(counter)
      counter.leased, counter.own = 0, 0
    else
      if counter.burst then redis.call('HDEL', key(counter.id), 'burst', 'period', 'room', 'at') end
      granted, retry = want(counter, need, wish)
      if need > 0 then index(counter) end
    end
  end
  for _, number in ipairs({granted, counter.spent, counter.leased, counter.own, wrong, retry}) do
    answer[#answer + 1] = text(number)
  end
end
return answer
