-- The rules by which processes lease from the counters; one row. Whoever knows a lower number gets no leases.
CREATE TABLE counter_protocol (number BIGINT PRIMARY KEY);
INSERT INTO counter_protocol (number) VALUES (1);
