"""Metrics, the access record, the event log, the audit log."""
