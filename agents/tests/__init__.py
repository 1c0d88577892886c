"""Tests of AgentOS, against a real PostgreSQL and a real Redis that the tests start themselves."""
