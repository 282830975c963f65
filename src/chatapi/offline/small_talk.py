"""The offline assistant's answers that concern no task: small talk, help, and what it is."""

MODEL_HINT = (
    "For real conversation, set CHAT_MODEL (for example CHAT_MODEL=google:gemini-2.5-flash with GEMINI_API_KEY, "
    "or openai:… or anthropic:…) and restart the service."
)
EXAMPLES = '"add milk to my list", "what\'s left?" or "mark task 2 as done"'

# A topic and a pattern for the whole clause, without "please" and the like.
TOPICS: tuple[tuple[str, str], ...] = (
    (
        "greeting",
        (r"(?:hi|hello|hey|hiya|howdy|yo|greetings|sup|what's up|wassup|g'day|are you there|anyone there|good (?:day|afternoon|evening)|hi again)"
        r"(?: (?:there|you|all|assistant|bot|friend|buddy|everyone|again|robot|computer))?"),
    ),
    ("morning", r"(?:good )?morning(?: .{0,20})?"),
    ("foreign", (r"(?:hola|bonjour|salut|hallo|ciao|guten tag|merhaba|namaste|konnichiwa|ol[aá]|salam|assalamu? ?alaikum|"
                r"hej|privet|buenos d[ií]as|ni ?hao|xin ch[aà]o|marhaba)(?: .{0,20})?")),
    ("thanks", (r"(?:many |ok(?:ay)? |great |perfect |cool )?(?:thanks|thank you|thx|ty|cheers|thank u|tysm)"
               r"(?: (?:a lot|so much|very much|a million|again|you|for .{1,60}|that's all|bye|buddy))*")),
    ("praise", (r"(?:you(?:'re| are) )?(?:so |very |the |really |pretty )?(?:great|good|awesome|amazing|cool|nice|perfect|excellent|"
               r"wonderful|fantastic|brilliant|best|helpful|smart|well done|good (?:job|work|bot)|nice (?:one|work|job)|lovely|"
               r"neat|great job|i love you|love it|love you|i like you)(?: (?:job|work|bot|assistant|one))?")),
    ("insult", (r"(?:(?:you(?:'re| are)|this is|that's|it's) )?(?:so |very |really |a )*(?:stupid|dumb|useless|bad|terrible|awful|an idiot|idiot|wrong|bad bot|"
               r"i hate you|you suck|suck|shut up|not (?:very )?(?:smart|helpful|good))(?: (?:bot|assistant))?")),
    ("feeling", (r"how(?:'re| are) (?:you|things|u)(?: (?:doing|feeling|today|going))*|how(?:'s| is) (?:it going|life|your day|everything)"
                r"(?: going)?(?: today)?|how do you (?:do|feel)(?: today)?|are you (?:ok|okay|well|happy|fine)")),
    ("bye", (r"(?:good)?bye(?:[ -]bye)?(?: .{0,20})?|good ?night|see (?:you|ya)(?: .{0,20})?|later|farewell|ciao ciao|take care|cya|"
            r"talk to you (?:later|soon)|have a (?:good|nice|great) (?:day|one|evening|weekend|night)|that's (?:all|it)(?: for (?:now|today))?|"
            r"i'm off")),
    ("joke", (r"(?:tell (?:me )?|do you know |know |say )?(?:a |another |any |one more |some )?(?:good |funny )?(?:jokes?|something funny)|"
             r"make me laugh|be funny")),
    ("who", (r"(?:who|what)(?: exactly)?(?: are|'re| r) (?:you|u)(?: exactly| really)?|what(?:'s| is) your name|do you have a name|"
            r"introduce yourself|tell me about yourself|are you (?:a |an |real|really |just )*(?:ai|bot|robot|human|person|real|llm|machine|"
            r"language model|model|chat ?gpt|gpt|gemini|claude|alive|offline|online)(?: or .{1,40})?|what (?:ai|model|llm|language model)"
            r" (?:are you|is this|do you use|am i talking to)|which model (?:are you|is this|do you use)|who (?:made|built|created|wrote) you|"
            r"am i talking to (?:a|an) .{1,30}|what is this(?: thing)?")),
    ("model", (r"(?:how (?:do|can|to|would)(?: i| we)? )?(?:configure|set ?up|use|get|enable|connect|switch to|add|plug in|change)"
              r"(?: you with)? (?:a |an |the |another |your |real |better |different )*(?:model|llm|language model|ai|ai model|gemini|gpt|"
              r"openai|claude|anthropic|api key|chat_model)(?: .{0,40})?|can you (?:be|get) smarter|use chat ?gpt")),
    ("help", (r"help(?: me)?(?: out)?|i need (?:some )?help|what (?:can|could|do) (?:you|u) do(?: (?:here|for me|with (?:this|you)|"
             r"exactly|all))*|what(?: are)? (?:your )?(?:commands|features|capabilities|abilities|options|skills)"
             r"(?: (?:are there|do you (?:have|know|understand)))?|how (?:does this|do you|does it|can you) (?:work|help)(?: me)?|commands|"
             r"usage|man|\?+|how (?:do|can) i use (?:you|this)|what do you (?:understand|know|offer)|menu|getting started|examples?|"
             r"what (?:can|should) i (?:say|ask|type)(?: to you| you| here)?|instructions|"
             r"how (?:can|do) you help(?: me)?|can you help(?: me)?")),
    ("reminders", r"(?:can|do|will|could) you (?:send|notify|alert|ring|text|email|wake)(?: me)?(?: .{0,40})?"),
    ("laugh", r"(?:ha){2,}h?|(?:he){2,}|lol|lmao|rofl|[:;]-?[)d]|[😂🤣😀😄😊🙂👍❤️🎉👏]+"),
    ("sorry", r"(?:i'm |i am |so |very )*sorry(?: about that)?|my bad|apologies"),
    ("introduction", r"(?:my name(?: is|'s)|call me|i am called|i'm called) .{1,60}"),
)  # fmt: skip

ANSWERS: dict[str, str] = {
    "introduction": "Nice to meet you! What can I put on your list?",
    "greeting": "Hello! I keep your task list. Tell me what to add, or ask what's left.",
    "morning": 'Good morning! Ask "what\'s left?" to see your day, or tell me what to add.',
    "foreign": f"Hello! I'm afraid I only understand simple English. Try {EXAMPLES}.",
    "thanks": "You're welcome!",
    "praise": "Thank you! Anything else for your list?",
    "insult": 'Sorry about that. I only know simple rules. Say "help" to see what I can do.',
    "feeling": "Running fine, thank you! What can I put on your list?",
    "bye": "Goodbye! Your list will be here when you come back.",
    "joke": "Why did the to-do list cross the road? It had one more thing to tick off on the other side.",
    "who": (
        "I'm the built-in offline assistant: no language model, just simple English rules for managing your tasks. "
        f"{MODEL_HINT}"
    ),
    "model": f"Right now no model is configured, so you get me, the offline assistant. {MODEL_HINT}",
    "help": (
        "I'm the offline assistant and I manage your tasks. You can say things like:\n"
        '- "add milk and bread to my list", "remind me to call mom"\n'
        '- "what\'s left?", "show completed", "how many tasks do I have?"\n'
        '- "done with milk", "complete the second one", "reopen task 2"\n'
        '- "rename task 3 to pay rent", "add a note to task 2: the blue one"\n'
        '- "delete the milk task", "clear completed tasks", "undo that"\n'
        'I can look back, too: "what did I say first?"'
    ),
    "reminders": "I can't send alerts or messages; I only keep the list. Ask \"what's left?\" whenever you like.",
    "laugh": "🙂 Anything for your list?",
    "sorry": 'No harm done! If something should be taken back, say "undo that".',
}

HOW_TO: dict[str, str] = {
    "add": 'Say what to add, for example "add milk and bread to my list" or "remind me to call mom".',
    "list": 'Say "show my tasks" for what is open, "show completed" for what is done, or "list everything".',
    "complete": 'Say "done with milk", "mark task 2 as done" or "complete the last one".',
    "reopen": 'Say "reopen milk" or "uncheck 2", and it is open again.',
    "delete": 'Say "delete milk", "remove task 2" or "clear completed tasks". I ask before I delete many.',
    "rename": 'Say "rename task 2 to pay rent", or "add a note to task 2: by Friday".',
    "undo": 'Say "undo that" and I take back the last thing I did.',
    "model": ANSWERS["model"],
    "help": ANSWERS["help"],
}  # fmt: skip

_SHORT_HINT = 'For real conversation, a model can be set as CHAT_MODEL: ask "who are you?" for how.'
NOT_UNDERSTOOD = (
    f"Sorry, I didn't understand that. I'm the offline assistant and only know simple English about tasks, such as "
    f"{EXAMPLES}. {_SHORT_HINT}"
)
NOT_ANSWERED = (
    "I'm the offline assistant, so I can't answer that: I only look after your tasks. "
    f"Try {EXAMPLES}. {_SHORT_HINT}"
)
SUPPOSED = (
    'I can\'t act on an "if" or a "maybe", so I changed nothing. Tell me plainly what to do when it is time.'
)
