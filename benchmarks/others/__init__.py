"""Other servers that do the job, each with its own libraries (the group `others`) and an assistant that answers at once.

They know neither chatapi nor its settings: `ANSWER`, `DATABASE_URL` and `PORT` are all that they are given.
"""
