"""Reading run folders and drawing them. Knows no agent."""
