"""Measurements that are printed and never asserted: how fast a machine is, is not a test."""
