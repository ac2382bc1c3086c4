-- The images that an exchange drew, with their size and quality, in JSON; NULL where it drew none.
ALTER TABLE exchange ADD COLUMN images TEXT;
