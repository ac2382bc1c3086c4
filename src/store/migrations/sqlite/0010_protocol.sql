-- The rules by which processes lease from the counters; one row. Whoever knows a lower number gets no leases.
CREATE TABLE counter_protocol (number INTEGER PRIMARY KEY) STRICT;
INSERT INTO counter_protocol (number) VALUES (1);
