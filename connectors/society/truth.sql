-- Ground truth of a mock agency: which records are wrong on purpose, and every change ever committed.
-- Run as the owner of the database, after its tables; safe to run again. Other roles have no right to this schema:
-- the bus must find out by itself, and its checkers compare with what stands here.

CREATE SCHEMA IF NOT EXISTS truth;
REVOKE ALL ON SCHEMA truth FROM PUBLIC;

-- What is wrong with a record now. `row_key` is the primary key as text, columns joined by '/'.
-- `expected` is the verdict that this role of the record deserves, MATCH for harmless variants of writing;
-- `right_value` is what should stand in `field`; `corrected_at` is set when the record is mended or gone.
CREATE TABLE IF NOT EXISTS truth.error (
    error_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name   text NOT NULL,
    row_key      text NOT NULL,
    role         text NOT NULL,
    kind         text NOT NULL,
    field        text NOT NULL,
    expected     text NOT NULL CHECK (expected IN ('MATCH', 'MISMATCH', 'NOT_FOUND', 'NO_PIN')),
    right_value  text,
    note         text NOT NULL DEFAULT '',
    seeded_at    timestamptz NOT NULL DEFAULT now(),
    corrected_at timestamptz
);
CREATE INDEX IF NOT EXISTS error_row ON truth.error (table_name, row_key);
CREATE INDEX IF NOT EXISTS error_right_value ON truth.error (right_value) WHERE corrected_at IS NULL;

-- Every committed row change after the fill, in the order of the statements of each transaction.
CREATE TABLE IF NOT EXISTS truth.journal (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid        bigint NOT NULL,
    table_name text NOT NULL,
    op         text NOT NULL CHECK (op IN ('c', 'u', 'd')),
    before     jsonb,
    after      jsonb,
    at         timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS journal_xid ON truth.journal (xid);

-- Numbers given out so far, to people, papers and runs: a sequence, because a number given out in vain must not come again.
CREATE SEQUENCE IF NOT EXISTS truth.number;

CREATE OR REPLACE FUNCTION truth.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO truth.journal (xid, table_name, op, before, after, at) VALUES (
        pg_current_xact_id()::text::bigint,
        TG_TABLE_NAME,
        CASE TG_OP WHEN 'INSERT' THEN 'c' WHEN 'UPDATE' THEN 'u' ELSE 'd' END,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
        CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END,
        clock_timestamp()
    );
    RETURN NULL;
END $$;

DO $$ DECLARE captured regclass; BEGIN
    FOR captured IN SELECT prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE pubname = 'bus' LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON %s
            FOR EACH ROW EXECUTE FUNCTION truth.keep()', captured);
    END LOOP;
END $$;
