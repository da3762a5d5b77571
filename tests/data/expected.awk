# What the counts must be, by the definition and apart from the counter: distinct users of a segment whose last pair is younger than
# the window. Use: zcat commits.ndjson.gz | awk -v window=1209600 -f expected.awk    prints: segment TAB members, every segment once.
match($0, /"user_id":"[^"]*"/)    { user = substr($0, RSTART + 11, RLENGTH - 12) }
match($0, /"segment":"[^"]*"/)    { segment = substr($0, RSTART + 11, RLENGTH - 12) }
match($0, /"age_seconds":[0-9]+/) { age = substr($0, RSTART + 14, RLENGTH - 14) + 0 }
{
  if (!(segment in members)) members[segment] = 0
  if (age < window && !((segment, user) in seen)) { seen[segment, user] = 1; members[segment]++ }
}
END { for (segment in members) print segment "\t" members[segment] }
