"""The offline half: trains towers, distils the query tower, encodes documents and publishes snapshots."""
