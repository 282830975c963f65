-- Hash partitioning by user, for one PostgreSQL (17 or newer) whose tables have become too large to be looked after in
-- one piece. See docs/scaling.md before. Stop the service, take a backup, then, as the service's role:
--   psql "$DATABASE_URL" --set ON_ERROR_STOP=1 --file deploy/partitioning.sql
-- It is one transaction, copies everything, and needs room for a second copy. The service runs on it unchanged.
BEGIN;

ALTER TABLE waits DROP CONSTRAINT fk_waits_user_id_turns;
ALTER TABLE files DROP CONSTRAINT fk_files_user_id_turns;
ALTER TABLE queued_turns DROP CONSTRAINT fk_queued_turns_user_id_conversations;
ALTER TABLE summaries DROP CONSTRAINT fk_summaries_user_id_conversations;

ALTER TABLE conversations RENAME TO conversations_before;
ALTER TABLE turns RENAME TO turns_before;
ALTER TABLE messages RENAME TO messages_before;
ALTER TABLE tool_calls RENAME TO tool_calls_before;
ALTER TABLE turn_chunks RENAME TO turn_chunks_before;
ALTER TABLE tasks RENAME TO tasks_before;
ALTER TABLE feedback RENAME TO feedback_before;
ALTER TABLE search_text RENAME TO search_text_before;

-- A key of a partitioned table has the partition's column in it.
CREATE TABLE conversations (
  LIKE conversations_before INCLUDING DEFAULTS INCLUDING IDENTITY,
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);
CREATE TABLE turns (
  LIKE turns_before INCLUDING DEFAULTS INCLUDING IDENTITY,
  PRIMARY KEY (user_id, id),
  UNIQUE (user_id, idempotency_key),
  UNIQUE (user_id, run_id),
  FOREIGN KEY (user_id, conversation_id) REFERENCES conversations (user_id, id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);
CREATE TABLE messages (
  LIKE messages_before INCLUDING DEFAULTS INCLUDING IDENTITY,
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);
CREATE TABLE tool_calls (
  LIKE tool_calls_before INCLUDING DEFAULTS,
  PRIMARY KEY (user_id, turn_id, position),
  FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);
CREATE TABLE turn_chunks (
  LIKE turn_chunks_before INCLUDING DEFAULTS,
  PRIMARY KEY (user_id, turn_id, run_id, position),
  FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);
CREATE TABLE tasks (
  LIKE tasks_before INCLUDING DEFAULTS INCLUDING IDENTITY,
  PRIMARY KEY (user_id, id),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);
CREATE TABLE feedback (
  LIKE feedback_before INCLUDING DEFAULTS,
  PRIMARY KEY (user_id, conversation_id, message_id),
  FOREIGN KEY (user_id, conversation_id) REFERENCES conversations (user_id, id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);
CREATE TABLE search_text (
  LIKE search_text_before INCLUDING DEFAULTS INCLUDING STORAGE,
  PRIMARY KEY (user_id, conversation_id, message_id, part) INCLUDE (words),
  FOREIGN KEY (user_id, conversation_id) REFERENCES conversations (user_id, id) ON DELETE CASCADE
) PARTITION BY HASH (user_id);

DO $$
DECLARE
  name text;
BEGIN
  -- Every row is to be copied, whosever it is.
  PERFORM set_config('chatapi.everyone', 'on', true);
  FOREACH name IN ARRAY '{conversations,turns,messages,tool_calls,turn_chunks,tasks,feedback,search_text}'::text[] LOOP
    FOR remainder IN 0..15 LOOP
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
                     name || '_' || remainder, name, remainder);
      IF name = 'search_text' THEN
        EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_vacuum_scale_factor = 0.02)',
                       name || '_' || remainder);
      END IF;
    END LOOP;
    EXECUTE format('INSERT INTO %I OVERRIDING SYSTEM VALUE SELECT * FROM %I', name, name || '_before');
    IF name NOT IN ('tool_calls', 'turn_chunks', 'feedback', 'search_text') THEN
      PERFORM setval(pg_get_serial_sequence(name, 'id'), nextval(pg_get_serial_sequence(name || '_before', 'id')));
    END IF;
  END LOOP;
END $$;

DROP TABLE search_text_before, feedback_before, turn_chunks_before, tool_calls_before, messages_before, turns_before, conversations_before, tasks_before;

-- These stay whole: they are small, or have a row for each file.
ALTER TABLE waits ADD FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE CASCADE;
ALTER TABLE files ADD FOREIGN KEY (user_id, turn_id) REFERENCES turns (user_id, id) ON DELETE SET NULL (turn_id);
ALTER TABLE queued_turns ADD FOREIGN KEY (user_id, conversation_id) REFERENCES conversations (user_id, id) ON DELETE CASCADE;
ALTER TABLE summaries ADD FOREIGN KEY (user_id, conversation_id) REFERENCES conversations (user_id, id) ON DELETE CASCADE;

CREATE INDEX ix_conversations_title_due ON conversations (title_due) WHERE title_due IS NOT NULL;
CREATE INDEX ix_conversations_list ON conversations (user_id, archived, pinned, updated_at, id);
CREATE UNIQUE INDEX uq_turns_running ON turns (user_id, conversation_id) WHERE status = 'running';
CREATE INDEX ix_turns_conversation ON turns (user_id, conversation_id, id);
CREATE INDEX ix_turns_alternatives ON turns (user_id, alternative_of) WHERE alternative_of IS NOT NULL;
CREATE INDEX ix_turns_run ON turns (run_id);
CREATE INDEX ix_messages_conversation ON messages (user_id, conversation_id, id);
CREATE INDEX ix_messages_turn ON messages (turn_id, user_id);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY '{conversations,turns,messages,tool_calls,turn_chunks,tasks,feedback,search_text}'::text[] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY own_rows ON %I USING (user_id = current_setting(''chatapi.user_id'', true) '
                   'OR current_setting(''chatapi.everyone'', true) = ''on'')', name);
  END LOOP;
END $$;

COMMIT;
