-- An API process says which batches its clients wait for. 
-- ARGV: api, attached_ms, abandoned_ms, batches.
-- Returns: those that are there no more.
local gone = {}
for place = 4, #ARGV do
  if not attend(ARGV[place], ARGV[1], ARGV[2], ARGV[3]) then gone[#gone + 1] = ARGV[place] end
end
return gone
