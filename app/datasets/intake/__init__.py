"""From uploaded files to verified pictures in a temporary folder; nothing here touches a row."""
