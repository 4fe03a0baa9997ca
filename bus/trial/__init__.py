"""What an agreement would do before it does it: drafts tried on recorded events, and examples kept beside each agreement."""
