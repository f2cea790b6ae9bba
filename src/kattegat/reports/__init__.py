"""What a scan or a watch has to say, put together for people: contents and renderings."""
