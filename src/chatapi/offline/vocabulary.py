"""Words that many phrasings share, as pieces of regular expressions."""

LIST = (
    r"(?:(?:my|the|our|this|that|your) )?(?:(?:to-?\s?do|task|shopping|grocery|groceries|chores?) )?"
    r"(?:lists?|tasks|to-?dos)"
)
TASK = r"(?:tasks?|to-?dos?|to do|items?|reminders?|entry|entries|things?)"
ORDINAL = r"(?:second|third|fourth|fifth|sixth|next|last|final|other|further|extra)"
NOTE = r"(?:description|notes?|details?|comment|info)"
I_HAVE = r"(?:i|i've|i have|we|we've|we have|i'm|i am|we're)"
ADVERBS = r"(?:(?:just|already|finally|also|actually|now|all|really|recently) )*"
