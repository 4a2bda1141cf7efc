//! From ring-buffer records to audit events: decode, enrich, sinks.
