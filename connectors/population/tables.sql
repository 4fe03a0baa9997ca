-- National population database (CSDLQG về dân cư): the register. Run as the owner of the database; safe to run again.

DO $$ BEGIN
    CREATE TYPE marital_status AS ENUM ('single', 'married', 'divorced', 'widowed');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN
    CREATE TYPE life_status AS ENUM ('alive', 'deceased', 'missing');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;

CREATE TABLE IF NOT EXISTS person (
    pin                 char(12) PRIMARY KEY CHECK (pin ~ '^[0-9]{12}$'),
    full_name           varchar(120) NOT NULL CHECK (full_name <> ''),
    birth_date          varchar(10) NOT NULL CHECK (birth_date ~ '^[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?$'),
    sex                 char(1) NOT NULL CHECK (sex IN ('M', 'F')),
    ethnicity           varchar(40) NOT NULL DEFAULT 'Kinh',
    religion            varchar(40),
    birth_province_code char(3) NOT NULL,
    address             varchar(300) NOT NULL,
    ward_code           char(5) NOT NULL,
    province_code       char(2) NOT NULL,
    father_pin          char(12),
    mother_pin          char(12),
    marital_status      marital_status NOT NULL DEFAULT 'single',
    old_id_number       varchar(9) CHECK (old_id_number ~ '^[0-9]{9}$'),
    phone               varchar(15),
    status              life_status NOT NULL DEFAULT 'alive',
    deceased_on         date,
    updated_at          timestamptz NOT NULL DEFAULT now(),
    CHECK (status = 'deceased' OR deceased_on IS NULL)
);
ALTER TABLE person REPLICA IDENTITY FULL;
CREATE INDEX IF NOT EXISTS person_mother ON person (mother_pin);
CREATE INDEX IF NOT EXISTS person_ward ON person (ward_code);

DO $$ BEGIN
    CREATE PUBLICATION bus FOR TABLE person;
EXCEPTION WHEN duplicate_object THEN
    ALTER PUBLICATION bus SET TABLE person;
END $$;
