"""What the proxy tells: counters for Prometheus and ctl top, events and conditions of trouble."""
